-- Begins a tenure: generation, and the offset up to which the shard is rebuilt.
-- KEYS: 1 meta, 2 changed, 3 headers, 4-5 seen, 6 gone  ARGV: owner, generation, until, wipe ("1" or "")
local META = KEYS[1]
local owner = redis.call('HGET', META, 'owner') or ''
if owner ~= '' and owner == ARGV[1] then
  if ARGV[4] ~= '' then
    -- The first write frees memory: a full Redis, too, takes it, and what follows.
    redis.call('UNLINK', KEYS[4], KEYS[5])
    redis.call('HSET', META, 'damaged', '1')
    redis.call('UNLINK', KEYS[2], KEYS[3])
    redis.call('HDEL', META, 'offset', 'ts', 'checksum', 'saved', 'window')
  end
  if tonumber(ARGV[3]) < 0 then redis.call('UNLINK', KEYS[6]) end
  redis.call('HINCRBY', META, 'moved', 1)
  redis.call('HSET', META, 'generation', ARGV[2], 'until', ARGV[3], 'damaged', ARGV[4] ~= '' and '' or
    (redis.call('HGET', META, 'damaged') or ''))
end
return redis.call('HMGET', META, 'owner', 'moved', 'offset', 'ts', 'checksum', 'saved', 'generation', 'until',
  'partitions', 'damaged')
