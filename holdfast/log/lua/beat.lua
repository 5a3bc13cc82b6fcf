-- A node's sign of life, and what it must know.
-- KEYS: 1 meta, 2 beats, 3 numbers, 4 kicks, 5 asks  ARGV: incarnation
local node = ARGV[1]
redis.call('HDEL', KEYS[2], '') -- after this a full Redis lets the rest pass: being full must kill nobody
redis.call('HINCRBY', KEYS[2], node, 1)
return {
  redis.call('HGET', KEYS[3], node),
  redis.call('HMGET', KEYS[1], 'offset', 'ts', 'checksum', 'generation', 'until', 'damaged'),
  redis.call('ZRANGEBYLEX', KEYS[4], '[' .. node .. '\0', '[' .. node .. '\0\255'),
  redis.call('HGET', KEYS[5], node) or '',
}
