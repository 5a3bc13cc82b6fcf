-- Reads channels, all at one moment; nothing while rebuilding. holdfast/log/shard.py says the same in Python.
-- KEYS: 1 meta, 2 headers, 3 revoked, then what the queries name by number
-- ARGV: 1 {window, {channel, list, after, before, limit, newest, epoch, cursors, device, members, member,
--       groups}...} in msgpack, false and 0 where not wanted
local WINDOW, queries = unpack(cmsgpack.unpack(ARGV[1]))
local meta = redis.call('HMGET', KEYS[1], 'offset', 'ts', 'generation', 'until', 'damaged')
local position, now, generation = tonumber(meta[1]) or -1, tonumber(meta[2]) or 0, meta[3] or ''
if generation == '' or (meta[5] or '') ~= '' or position < (tonumber(meta[4]) or -1) then return false end
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
return { generation, position, answer }
