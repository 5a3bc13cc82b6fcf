-- Takes in facts from the state topic, never over a higher version of the same generation.
-- holdfast/log/facts.py says the same in Python.
-- KEYS: 1 meta, 2 revoked, 3 gone, 4 dead, then hashes of facts
-- ARGV: 1 {owner, {kind, hash, channel, field, version, epoch, seq, present}...} in msgpack
local REVOKED, GONE, DEAD = KEYS[2], KEYS[3], KEYS[4]
local owner, facts = unpack(cmsgpack.unpack(ARGV[1]))
local holder = redis.call('HGET', KEYS[1], 'owner') or ''
if holder == '' or holder ~= owner then return 0 end

local function int(n) return string.format('%.0f', n) end
local function generation_of(epoch) return string.match(epoch, '^[^.]*') end

for _, row in ipairs(facts) do
  local kind, hash, channel, field, version, epoch, seq, present = unpack(row)
  local of = generation_of(epoch)
  if kind == 'revoke' then
    local before = tonumber(redis.call('HGET', REVOKED, channel) or 0)
    if version > before then redis.call('HSET', REVOKED, channel, int(version)) end
  elseif kind == 'dead' then
    if present then redis.call('HSET', DEAD, field, int(version)) else redis.call('HDEL', DEAD, field) end
  else
    local name = '-' .. channel .. '\0' .. field
    local known, of_known
    local raw = redis.call('HGET', KEYS[hash], field)
    if raw then
      local held, _, held_epoch = string.match(raw, '^(%d+) (%d+) (.*)$')
      known, of_known = tonumber(held), generation_of(held_epoch)
    elseif kind ~= 'cursor' then
      raw = redis.call('HGET', GONE, name)
      if raw then
        local left, left_of = string.match(raw, '^(%d+) (.*)$')
        known, of_known = tonumber(left), left_of
      end
    end
    if not (known and of_known == of and known > version) then
      if present then
        redis.call('HSET', KEYS[hash], field, int(version) .. ' ' .. int(seq) .. ' ' .. epoch)
        if kind ~= 'cursor' then redis.call('HDEL', GONE, name) end
      elseif kind ~= 'cursor' then
        redis.call('HDEL', KEYS[hash], field)
        redis.call('HSET', GONE, name, int(version) .. ' ' .. of)
      end
    end
  end
end
return 1
