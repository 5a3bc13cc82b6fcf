-- Marks sessions to be ended.  KEYS: 1 sessions, 2 kicks  ARGV: user, code, reason, sessions
local user, there, done = ARGV[1], 0, {}
for i = 4, #ARGV do
  local name = user .. '\0' .. ARGV[i]
  local found = redis.call('ZRANGEBYLEX', KEYS[1], '[' .. name .. '\0', '[' .. name .. '\0\255')[1]
  if found and not done[name] then
    there, done[name] = there + 1, true
    local info = cmsgpack.unpack(string.sub(found, #name + 2))
    local prefix = info[2] .. '\0' .. ARGV[i] .. '\0'
    redis.call('ZREMRANGEBYLEX', KEYS[2], '[' .. prefix, '[' .. prefix .. '\255')
    redis.call('ZADD', KEYS[2], 0, prefix .. user .. '\0' .. ARGV[2] .. '\0' .. ARGV[3])
  end
end
return there
