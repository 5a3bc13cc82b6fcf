-- Removes a page of what a buried incarnation left. holdfast/log/nodes.py says the same in Python.
-- KEYS: 1 meta, 2 dead, 3 held, 4 routes, 5 sessions, 6 clients, 7 kicks, 8 numbers, 9 beats, 10 asks, 11 told,
--       12 loads
-- ARGV: 1 {owner, incarnation, limit, {{user, session}...}} in msgpack: sessions whose disconnect is durable
local META, DEAD, HELD, ROUTES, SESSIONS, CLIENTS, KICKS = unpack(KEYS)
local owner, node, limit, done = unpack(cmsgpack.unpack(ARGV[1]))
local holder = redis.call('HGET', META, 'owner') or ''
if holder == '' or holder ~= owner or redis.call('HEXISTS', DEAD, node) == 0 then return false end

local function entries(name)
  return redis.call('ZRANGEBYLEX', SESSIONS, '[' .. name .. '\0', '[' .. name .. '\0\255')
end

local function drop_route(channel)
  local kept = {}
  for incarnation in string.gmatch(redis.call('HGET', ROUTES, channel) or '', '[^\n]+') do
    if incarnation ~= node then kept[#kept + 1] = incarnation end
  end
  if #kept > 0 then
    redis.call('HSET', ROUTES, channel, table.concat(kept, '\n'))
  else
    redis.call('HDEL', ROUTES, channel)
  end
end

for _, one in ipairs(done) do
  local user, session = one[1], one[2]
  local name = user .. '\0' .. session
  if redis.call('SREM', HELD, 's' .. name) == 1 then
    for _, member in ipairs(entries(name)) do
      redis.call('ZREM', SESSIONS, member)
      local info = cmsgpack.unpack(string.sub(member, #name + 2))
      local client = user .. '\0' .. info[5]
      if info[5] ~= '' and redis.call('HGET', CLIENTS, client) == session .. '\0' .. info[2] then
        redis.call('HDEL', CLIENTS, client)
      end
    end
    local kick = node .. '\0' .. session .. '\0'
    redis.call('ZREMRANGEBYLEX', KICKS, '[' .. kick, '[' .. kick .. '\255')
  end
end

local found = {}
for _, held in ipairs(redis.call('SRANDMEMBER', HELD, limit)) do
  local name = string.sub(held, 2)
  if string.sub(held, 1, 1) == 'r' then
    redis.call('SREM', HELD, held)
    drop_route(name)
  else
    found[#found + 1] = entries(name)[1]
  end
end
local told = redis.call('HGET', KEYS[11], node) or '0'
local over = redis.call('SCARD', HELD) == 0
if over then
  for i = 8, 12 do redis.call('HDEL', KEYS[i], node) end
  redis.call('ZREMRANGEBYLEX', KICKS, '[' .. node .. '\0', '[' .. node .. '\0\255')
end
return { over and 1 or 0, told, found }
