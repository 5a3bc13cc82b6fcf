-- Reads channels, all at one moment. holdfast/log/shard.py says the same in Python.
-- KEYS: 1 meta, 2 headers, 3 revoked, then what the queries name by number
-- ARGV: 1 {window, {channel, list, after, before, limit, newest, epoch, cursors, device, members, member,
--       groups}...} in msgpack, false and 0 where not wanted
local WINDOW, queries = unpack(cmsgpack.unpack(ARGV[1]))
local now = tonumber(redis.call('HGET', KEYS[1], 'ts') or 0)
local answer = {}

for i, q in ipairs(queries) do
  local channel, list, after, before, limit, newest, epoch, cursors, device, members, member, groups = unpack(q)
  local view = { '', 0, 1, 0, {} }
  local raw = redis.call('HGET', KEYS[2], channel)
  if raw then
    local next_seq, ts, keep, _, channel_epoch = cmsgpack.unpack(raw)
    if now - ts <= math.max(keep, 2 * WINDOW) then
      local first, head = next_seq - redis.call('LLEN', KEYS[list]), next_seq - 1
      view[1], view[2], view[3] = channel_epoch, head, first
      if after and (epoch == '' or epoch == channel_epoch) then
        local low, high = math.max(after + 1, first), head
        if before then high = math.min(head, before - 1) end
        if newest then low = math.max(low, high - limit + 1) else high = math.min(high, low + limit - 1) end
        if low <= high then
          view[4], view[5] = low, redis.call('LRANGE', KEYS[list], low - first, high - first)
        end
      end
    end
  end
  view[6] = cursors > 0 and redis.call('HGET', KEYS[cursors], device) or ''
  view[7] = members > 0 and redis.call('HGET', KEYS[members], member) or ''
  view[8] = groups > 0 and redis.call('HGETALL', KEYS[groups]) or {}
  view[9] = redis.call('HGET', KEYS[3], channel) or '0'
  answer[i] = view
end
return answer
