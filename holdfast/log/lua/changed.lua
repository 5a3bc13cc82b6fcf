-- What was written after an offset; nothing while rebuilding.  KEYS: 1 meta, 2 changed  ARGV: since, limit
local meta = redis.call('HMGET', KEYS[1], 'offset', 'ts', 'checksum', 'generation', 'until', 'damaged')
if (meta[4] or '') == '' or (meta[6] or '') ~= '' or (tonumber(meta[1]) or -1) < (tonumber(meta[5]) or -1) then
  return false
end
return { meta, redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2]) }
