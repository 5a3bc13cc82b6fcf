-- Asks something of a node: a line of its asks, once.  KEYS: 1 asks  ARGV: incarnation, what
local asks = redis.call('HGET', KEYS[1], ARGV[1])
if not asks then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
elseif not string.find('\n' .. asks .. '\n', '\n' .. ARGV[2] .. '\n', 1, true) then
  redis.call('HSET', KEYS[1], ARGV[1], asks .. '\n' .. ARGV[2])
end
return 1
