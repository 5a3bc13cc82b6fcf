-- KEYS: 1 meta  ARGV: owner
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'owner', '')
  redis.call('HINCRBY', KEYS[1], 'moved', 1)
end
return 1
