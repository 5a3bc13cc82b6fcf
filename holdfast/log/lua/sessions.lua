-- The sessions of users: arrays of user NUL session NUL info.  KEYS: 1 sessions  ARGV: users
local answer = {}
for i, user in ipairs(ARGV) do
  answer[i] = redis.call('ZRANGEBYLEX', KEYS[1], '[' .. user .. '\0', '[' .. user .. '\0\255')
end
return answer
