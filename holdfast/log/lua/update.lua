-- Applies a node's numbered micro-batch. holdfast/log/nodes.py says the same in Python.
-- KEYS: 1 numbers, 2 held by this incarnation, 3 routes, 4 sessions, 5 clients, 6 kicks, 7 beats, 8 dead
-- ARGV: 1 {incarnation, number, whole, changes} in msgpack
--
-- held: a set of "r" channel, or "s" user NUL session. routes: channel -> incarnations, one a line.
-- sessions and kicks are sorted sets read by the start of their members.
local NUMBERS, HELD, ROUTES, SESSIONS, CLIENTS, KICKS, BEATS, DEAD = unpack(KEYS)
local node, number, whole, changes, replaced = unpack(cmsgpack.unpack(ARGV[1]))
if redis.call('HEXISTS', DEAD, node) == 1 then return -2 end
local before = tonumber(redis.call('HGET', NUMBERS, node) or 0)
if number <= before or (not whole and number ~= before + 1) then return before end
redis.call('HSET', NUMBERS, node, before) -- says nothing new, but a full Redis refuses it before all else
redis.call('HSETNX', BEATS, node, 0) -- whoever holds something here can be found to be dead

local function starting(key, prefix)
  return redis.call('ZRANGEBYLEX', key, '[' .. prefix, '[' .. prefix .. '\255')
end

local function add_kick(incarnation, session, user, code, reason)
  local prefix = incarnation .. '\0' .. session .. '\0'
  redis.call('ZREMRANGEBYLEX', KICKS, '[' .. prefix, '[' .. prefix .. '\255')
  redis.call('ZADD', KICKS, 0, prefix .. user .. '\0' .. code .. '\0' .. reason)
end

-- Who writes all again may write what was replaced meanwhile: then the one that began later stays.
local function stays(other, info)
  return whole and (other[4] > info[4] or (other[4] == info[4] and other[1] > info[1]))
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

local function free(user, info) -- the client that a session had
  local client = user .. '\0' .. info[5]
  if info[5] ~= '' and redis.call('HGET', CLIENTS, client) == info[1] .. '\0' .. info[2] then
    redis.call('HDEL', CLIENTS, client)
  end
end

local function drop_session(name)
  for _, member in ipairs(starting(SESSIONS, name .. '\0')) do
    redis.call('ZREM', SESSIONS, member)
    local info = cmsgpack.unpack(string.sub(member, #name + 2))
    free(string.sub(name, 1, #name - #info[1] - 1), info)
    local kick = info[2] .. '\0' .. info[1] .. '\0'
    redis.call('ZREMRANGEBYLEX', KICKS, '[' .. kick, '[' .. kick .. '\255')
  end
end

local function drop(held)
  if redis.call('SREM', HELD, held) == 0 then return end
  if string.sub(held, 1, 1) == 'r' then drop_route(string.sub(held, 2)) else drop_session(string.sub(held, 2)) end
end

local function add_route(channel)
  if redis.call('SADD', HELD, 'r' .. channel) == 0 then return end
  local route = redis.call('HGET', ROUTES, channel)
  redis.call('HSET', ROUTES, channel, route and route .. '\n' .. node or node)
end

local function add_session(user, info)
  local name = user .. '\0' .. info[1]
  if redis.call('SADD', HELD, 's' .. name) == 0 then
    for _, member in ipairs(starting(SESSIONS, name .. '\0')) do
      redis.call('ZREM', SESSIONS, member)
      local same = cmsgpack.unpack(string.sub(member, #name + 2))
      if same[5] ~= info[5] then free(user, same) end
    end
  end
  redis.call('ZADD', SESSIONS, 0, name .. '\0' .. cmsgpack.pack(info))
  if info[5] ~= '' then
    local client = user .. '\0' .. info[5]
    local session, incarnation = string.match(redis.call('HGET', CLIENTS, client) or '', '^(%Z+)%z(%Z+)$')
    local other = session and session ~= info[1] and starting(SESSIONS, user .. '\0' .. session .. '\0')[1]
    other = other and cmsgpack.unpack(string.sub(other, #user + #session + 3))
    if other and stays(other, info) then
      add_kick(info[2], info[1], user, 'superseded', '')
    else
      if other then add_kick(incarnation, session, user, 'superseded', '') end
      redis.call('HSET', CLIENTS, client, info[1] .. '\0' .. info[2])
    end
  end
  if (info[7] or '') == '' then return end
  for _, member in ipairs(starting(SESSIONS, user .. '\0')) do
    local other = cmsgpack.unpack(string.match(string.sub(member, #user + 2), '^%Z*%z(.*)$'))
    if other[7] == info[7] and other[1] ~= info[1] then
      local loser = stays(other, info) and info or other
      add_kick(loser[2], loser[1], user, 'disconnected', replaced)
    end
  end
end

local function held(change)
  local op, name, what = unpack(change)
  if op == '+r' or op == '-r' then return 'r' .. name end
  return 's' .. name .. '\0' .. (op == '+s' and what[1] or what)
end

if whole then
  local keep = {}
  for _, change in ipairs(changes) do keep[held(change)] = true end
  for _, name in ipairs(redis.call('SMEMBERS', HELD)) do
    if not keep[name] then drop(name) end
  end
end
for _, change in ipairs(changes) do
  local op, name, what = unpack(change)
  if op == '+r' then add_route(name)
  elseif op == '+s' then add_session(name, what)
  else drop(held(change)) end
end
redis.call('HSET', NUMBERS, node, string.format('%.0f', number))
return number
