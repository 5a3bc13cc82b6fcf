-- Takes in one batch. Reads and decides everything first, then writes; the watermark last.
-- holdfast/log/shard.py says the same in Python, and a test holds the two together.
--
-- An error while writing leaves `damaged` set: Redis does not roll back, so the shard must be rebuilt.
--
-- KEYS: 1 meta, 2 changed, 3 headers, 4 routes, 5-6 seen, 7 revoked, 8 gone, then one list per channel, then
--       hashes
-- ARGV: 1 the batch in msgpack, then the body of each APPEND
local META, CHANGED, HEADERS, ROUTES, REVOKED, GONE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[7], KEYS[8]
local SEEN = { [0] = KEYS[5], [1] = KEYS[6] }
local LISTS = 8
local PASS, APPEND, JOIN, LEAVE, GROUP, CURSOR, REVOKE, ROUTE = 0, 1, 2, 3, 4, 5, 6, 7
local DONE, SKIPPED, REUSED = 0, 1, 2
local APPLIED, FENCED, BEHIND, REFUSED, DAMAGED = 0, 1, 2, 3, 4

local owner, carried, last, saved, now, WINDOW, SWEEP, AGED, channels, records, wanted =
    unpack(cmsgpack.unpack(ARGV[1]))
local stored = redis.call('HMGET', META, 'owner', 'offset', 'ts', 'checksum', 'saved', 'generation', 'window',
  'until', 'damaged')
local found = { tonumber(stored[2]) or -1, tonumber(stored[3]) or 0, tonumber(stored[4]) or 0 }
local generation, window, upto = stored[6], tonumber(stored[7]) or -1, tonumber(stored[8]) or -1
local first_window = window

local function answer(status, reason, out, epochs, routes)
  return cmsgpack.pack({ status, found[1], found[2], found[3], reason, out or {}, epochs or {}, routes or {} })
end

if not stored[1] or stored[1] == '' or stored[1] ~= owner then return answer(FENCED, '') end
if (stored[9] or '') ~= '' then return answer(DAMAGED, '') end
if found[1] < carried or (wanted ~= '' and wanted ~= generation) then return answer(BEHIND, '') end

-- what is decided
local out, epochs, routes = {}, { '' }, {}
local swept, headers, touched, facts, fact_writes, revoked, seen_writes = {}, {}, {}, {}, {}, {}, {}

local function int(n) return string.format('%.0f', n) end

local function idle(header, ts) return ts - header.ts > math.max(header.keep, 2 * WINDOW) end

-- when an entry was written: packed (holdfast/log/packing.py), or JSON
local function time_of(entry)
  local mark, a, b, c, d, e, f = string.byte(entry, 1, 7)
  if f and mark >= 16 and mark < 32 then
    return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
  end
  return tonumber((string.match(entry, '^"ts":(%d+),')))
end

local function decode(raw)
  local h = {}
  h.next, h.ts, h.keep, h.oldest, h.epoch = cmsgpack.unpack(raw)
  return h
end

local function decide()
  -- headers that hold no more, the longest untouched first
  if last[1] > found[1] then
    local oldest = redis.call('ZRANGE', CHANGED, 0, 0)
    local raw = oldest[1] and redis.call('HGET', HEADERS, oldest[1])
    if raw and idle(decode(raw), found[2] - WINDOW) then
      oldest = redis.call('ZRANGE', CHANGED, 0, SWEEP - 1)
      for i, raw in ipairs(redis.call('HMGET', HEADERS, unpack(oldest))) do
        if not raw or not idle(decode(raw), found[2] - WINDOW) then break end
        swept[i] = oldest[i]
        swept[oldest[i]] = true
      end
    end
  end
  if #records == 0 then return end

  local names, sources = {}, {}
  for c, channel in ipairs(channels) do names[c] = channel[1] end
  for c, raw in ipairs(redis.call('HMGET', HEADERS, unpack(names))) do
    if raw and not swept[names[c]] then headers[c] = decode(raw) end
  end
  for c, route in ipairs(redis.call('HMGET', ROUTES, unpack(names))) do routes[c] = route or '' end

  -- two maps of what was seen: of sources by channel, and of who left a group
  local fields = {}
  for i, r in ipairs(records) do
    local op = r[4]
    if op == APPEND and r[5] ~= '' then
      fields[i] = names[r[1]] .. '\0' .. r[5]
    elseif op == JOIN or op == LEAVE or op == GROUP then
      fields[i] = '-' .. names[r[1]] .. '\0' .. r[5]
    end
    if fields[i] then sources[#sources + 1] = fields[i] end
  end
  local current, previous = {}, {}
  if #sources > 0 and window >= 0 then
    for i, value in ipairs(redis.call('HMGET', SEEN[window % 2], unpack(sources))) do
      current[sources[i]] = value
    end
    for i, value in ipairs(redis.call('HMGET', SEEN[(window + 1) % 2], unpack(sources))) do
      previous[sources[i]] = value
    end
  end
  local gone = {}  -- who left a group, as the state topic told: only while rebuilding
  if #sources > 0 and found[1] < upto then
    for i, value in ipairs(redis.call('HMGET', GONE, unpack(sources))) do gone[sources[i]] = value end
  end
  local function advance(ts)
    local w = math.floor(ts / WINDOW)
    if w > window then
      previous = w == window + 1 and current or {}
      current, window = {}, w
    end
  end
  local function see(field, value)
    current[field] = value
    local writes = seen_writes[window]
    if not writes then
      writes = {}
      seen_writes[window] = writes
    end
    writes[field] = value
  end

  local epoch_numbers = { [''] = 0 }
  local function put(outcome, seq, epoch, version)
    local number = epoch_numbers[epoch]
    if not number then
      number = #epochs
      epochs[number + 1] = epoch
      epoch_numbers[epoch] = number
    end
    local n = #out
    out[n + 1], out[n + 2], out[n + 3], out[n + 4] = outcome, seq, version, number
  end

  -- the channel's header, made anew if there is none or it idled too long
  local function touch(r)
    local c = r[1]
    local h = headers[c]
    if not h or idle(h, r[3]) then
      h = { next = 1, ts = 0, epoch = generation .. '.' .. int(r[2]), fresh = true }
      headers[c] = h
    end
    if r[3] > h.ts then h.ts = r[3] end
    h.keep, h.offset = channels[c][3], r[2]
    touched[c] = h
    return h
  end

  -- facts are "version seq epoch"
  local function fact(key, field)
    local cache = facts[key]
    if not cache then
      cache = {}
      facts[key] = cache
    end
    if cache[field] == nil then
      local raw = redis.call('HGET', KEYS[key], field)
      local version, seq, epoch = string.match(raw or '', '^(%d+) (%d+) (.*)$')
      cache[field] = version and { tonumber(version), tonumber(seq), epoch } or false
    end
    return cache[field]
  end
  local function hold(key, field, value)
    facts[key][field] = value
    local writes = fact_writes[key]
    if not writes then
      writes = {}
      fact_writes[key] = writes
    end
    writes[field] = value
  end
  local function skip(held, absent, of)
    if held then put(SKIPPED, held[2], held[3], held[1]) else put(SKIPPED, 0, of or '', absent) end
  end
  local function generation_of(epoch) return string.match(epoch, '^[^.]*') end
  -- what is known of a membership, and of which generation
  local function newest(i, r)
    local held = fact(r[10], r[5])
    if held then return held, generation_of(held[3]) end
    local field = fields[i]
    local left = current[field] or previous[field] or gone[field]
    if not left then return nil, '' end
    local version, known = string.match(left, '^(%d+) (.*)$')
    return { tonumber(version), 0, known }, known
  end
  local function revocation(c)
    local name = names[c]
    if revoked[name] == nil then revoked[name] = { tonumber(redis.call('HGET', REVOKED, name) or 0) } end
    return revoked[name]
  end

  local body = 1
  for i, r in ipairs(records) do
    local c, offset, ts, op, source, score = r[1], r[2], r[3], r[4], r[5], r[6]
    if op == APPEND then body = body + 1 end
    if offset <= found[1] then
      if op == JOIN then skip((newest(i, r)), 0)
      elseif op == LEAVE then skip((newest(i, r)), offset, generation)
      elseif op == GROUP then skip((newest(i, r)), r[7] == 0 and score or 0)
      elseif op == CURSOR then skip(fact(r[10], source), 0)
      elseif op == REVOKE then
        local before = revocation(c)[1]
        put(SKIPPED, before, '', before)
      else put(SKIPPED, 0, '', 0) end
    else
      advance(ts)
      if op == APPEND then
        local outcome, field = DONE, fields[i]
        local before = field and (current[field] or previous[field])
        if before then
          local old_score, old_content = string.match(before, '^(-?%d+),(%d+)$')
          old_score, old_content = tonumber(old_score), tonumber(old_content)
          if score < 0 or score < old_score then
            outcome = SKIPPED
          elseif score == old_score then
            local other = r[7] ~= 0 and old_content ~= 0 and r[7] ~= old_content
            outcome = other and REUSED or SKIPPED
          end
        end
        if outcome == DONE then
          if field then see(field, int(score) .. ',' .. int(r[7])) end
          local h = touch(r)
          local bodies = h.bodies
          if not bodies then
            bodies = {}
            h.bodies = bodies
          end
          bodies[#bodies + 1] = ARGV[body]
          h.latest = ts
          if not h.oldest or ts < h.oldest then h.oldest = ts end
          put(DONE, h.next, h.epoch, 0)
          h.next = h.next + 1
        else
          put(outcome, 0, '', 0)
        end
      elseif op == JOIN or op == LEAVE or op == GROUP then
        local version = op == GROUP and score or offset
        local h = touch(r)
        local held, known = newest(i, r)
        local of = generation_of(op == GROUP and r[8] or h.epoch)
        local again = held and known == of and held[1] == version and op == GROUP
        if again and r[7] ~= 1 then see(fields[i], int(version) .. ' ' .. of) end
        if again or (held and known == of and held[1] > version) then
          skip(held, 0)
        else
          local place, present
          if op == GROUP then
            place, present = { version, r[9], r[8] }, r[7] == 1
          else
            held, present = fact(r[10], source), op == JOIN
            place = { version, h.next - 1, h.epoch }
            if present and held and held[3] == h.epoch then place[2] = held[2] end
          end
          hold(r[10], source, present and place)
          if not present then see(fields[i], int(version) .. ' ' .. of) end
          put(DONE, place[2], place[3], version)
        end
      elseif op == CURSOR then
        local held, h = fact(r[10], source), headers[c]
        local now_epoch = h and not idle(h, ts) and h.epoch or ''
        local stale = false
        if held then
          if held[3] == r[8] then stale = score <= held[2] else stale = held[3] == now_epoch end
        end
        if stale then
          skip(held, 0)
        else
          hold(r[10], source, { offset, score, r[8] })
          put(DONE, score, r[8], offset)
        end
      elseif op == REVOKE then
        local before = revocation(c)
        touch(r)
        if score <= before[1] then
          put(SKIPPED, before[1], '', before[1])
        else
          before[1], before.new = score, true
          put(DONE, score, '', score)
        end
      elseif op == PASS or op == ROUTE then
        put(DONE, 0, '', 0)
      else
        error('record ' .. (i - 1) .. ': unknown op ' .. tostring(op), 0)
      end
    end
  end
end

local decided, reason = pcall(decide)
if not decided then
  return answer(REFUSED, type(reason) == 'table' and tostring(reason.err) or tostring(reason))
end

-- From here on, only writes. The first one is of those that a full Redis refuses: after another it would
-- let the rest pass.
redis.call('HINCRBY', META, 'moved', 1)
local writes = #records > 0 or #swept > 0
if writes then redis.call('HSET', META, 'damaged', '1') end
for _, name in ipairs(swept) do
  redis.call('HDEL', HEADERS, name)
  redis.call('ZREM', CHANGED, name)
end

local header_args, changed_args = {}, {}
for c, h in pairs(touched) do
  local list, count, keep = KEYS[LISTS + c], channels[c][2], channels[c][3]
  if h.fresh then redis.call('UNLINK', list) end
  if h.bodies then
    local left = h.latest + keep - now
    if left <= 0 then
      redis.call('UNLINK', list)
    else
      if redis.call('RPUSH', list, unpack(h.bodies)) > count then redis.call('LTRIM', list, -count, -1) end
      redis.call('PEXPIRE', list, int(left))
      local cutoff = math.max(h.latest, now) - keep
      if h.oldest < cutoff then
        local drop = 0
        h.oldest = h.latest
        for _, entry in ipairs(redis.call('LRANGE', list, 0, AGED)) do
          local ts = time_of(entry)
          if not ts or ts >= cutoff or drop == AGED then
            h.oldest = ts or h.latest
            break
          end
          drop = drop + 1
        end
        if drop > 0 then redis.call('LTRIM', list, drop, -1) end
      end
    end
  end
  local n = #header_args
  header_args[n + 1] = channels[c][1]
  header_args[n + 2] = cmsgpack.pack(h.next, h.ts, h.keep, h.oldest or h.ts, h.epoch)
  changed_args[n + 1] = int(h.offset)
  changed_args[n + 2] = channels[c][1]
end
if #header_args > 0 then
  redis.call('HSET', HEADERS, unpack(header_args))
  redis.call('ZADD', CHANGED, unpack(changed_args))
end

for key, writes in pairs(fact_writes) do
  for field, value in pairs(writes) do
    if value then
      redis.call('HSET', KEYS[key], field, int(value[1]) .. ' ' .. int(value[2]) .. ' ' .. value[3])
    else
      redis.call('HDEL', KEYS[key], field)
    end
  end
end
for name, before in pairs(revoked) do
  if before.new then redis.call('HSET', REVOKED, name, int(before[1])) end
end

if window > first_window then
  redis.call('UNLINK', SEEN[window % 2])
  if window > first_window + 1 then redis.call('UNLINK', SEEN[(window + 1) % 2]) end
end
for w = window - 1, window do
  if seen_writes[w] then
    local args = {}
    for field, value in pairs(seen_writes[w]) do
      args[#args + 1] = field
      args[#args + 1] = value
    end
    redis.call('HSET', SEEN[w % 2], unpack(args))
  end
end

local meta_args = {}
if window > first_window then meta_args = { 'window', int(window) } end
if saved > (tonumber(stored[5]) or -1) then
  meta_args[#meta_args + 1] = 'saved'
  meta_args[#meta_args + 1] = int(saved)
end
if last[1] > found[1] then
  for i, name in ipairs({ 'offset', 'ts', 'checksum' }) do
    meta_args[#meta_args + 1] = name
    meta_args[#meta_args + 1] = int(last[i])
  end
  if found[1] < upto and last[1] >= upto then redis.call('UNLINK', GONE) end
end
if writes then
  meta_args[#meta_args + 1] = 'damaged'
  meta_args[#meta_args + 1] = ''
end
if #meta_args > 0 then redis.call('HSET', META, unpack(meta_args)) end
return answer(APPLIED, '', out, epochs, routes)
