-- A node's sign of life, and what it must know.
-- KEYS: 1 meta, 2 beats, 3 numbers, 4 kicks, 5 asks, 6 dead, 7 told, 8 loads  ARGV: incarnation, told, load
local node, told, load = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('HDEL', KEYS[2], '') -- after this a full Redis lets the rest pass: being full must kill nobody
local fenced = redis.call('HEXISTS', KEYS[6], node)
if fenced == 0 then
  redis.call('HINCRBY', KEYS[2], node, 1)
  if told > 0 then redis.call('HSET', KEYS[7], node, ARGV[2]) end
  if load >= 0 then redis.call('HSET', KEYS[8], node, ARGV[3]) end
end
return {
  redis.call('HGET', KEYS[3], node),
  redis.call('HMGET', KEYS[1], 'offset', 'ts', 'checksum', 'generation', 'until', 'damaged'),
  redis.call('ZRANGEBYLEX', KEYS[4], '[' .. node .. '\0', '[' .. node .. '\0\255'),
  redis.call('HGET', KEYS[5], node) or '',
  fenced,
  load >= 0 and redis.call('HGETALL', KEYS[8]) or {},
}
