-- Takes the token if owner and moved are still as expected.
-- KEYS: 1 meta  ARGV: owner, expected owner, expected moved, generation, partitions, format
local META = KEYS[1]
local stored = redis.call('HMGET', META, 'owner', 'moved', 'generation', 'partitions', 'format')
if stored[4] and stored[4] ~= ARGV[5] then return { 'partitions', stored[4] } end
if stored[5] and stored[5] ~= ARGV[6] then return { 'format', stored[5] } end
if (stored[1] or '') == ARGV[2] and (stored[2] or '0') == ARGV[3] then
  redis.call('HSET', META, 'owner', ARGV[1], 'partitions', ARGV[5], 'format', ARGV[6])
  redis.call('HINCRBY', META, 'moved', 1)
  if (stored[3] or '') == '' then redis.call('HSET', META, 'generation', ARGV[4]) end
end
return redis.call('HMGET', META, 'owner', 'moved', 'offset', 'ts', 'checksum', 'saved', 'generation', 'until',
  'partitions', 'damaged')
