-- Forgets some of a shard's logs, and marks it damaged until `begin` has wiped it.
-- KEYS: 1 meta, 2 changed, 3 headers, then lists  ARGV: owner, then the channels of the lists
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
if owner == '' or owner ~= ARGV[1] then return 0 end
-- The first write frees memory: a full Redis, too, takes it, and what follows.
if ARGV[2] then redis.call('UNLINK', KEYS[4]) end
redis.call('HSET', KEYS[1], 'damaged', '1')
for i = 2, #ARGV do
  redis.call('UNLINK', KEYS[i + 2])
  redis.call('HDEL', KEYS[3], ARGV[i])
  redis.call('ZREM', KEYS[2], ARGV[i])
end
return #ARGV - 1
