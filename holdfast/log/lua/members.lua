-- The members of a group; nothing while rebuilding.  KEYS: 1 meta, 2 members
local meta = redis.call('HMGET', KEYS[1], 'offset', 'generation', 'until', 'damaged')
if (meta[2] or '') == '' or (meta[4] or '') ~= '' or (tonumber(meta[1]) or -1) < (tonumber(meta[3]) or -1) then
  return false
end
return redis.call('HGETALL', KEYS[2])
