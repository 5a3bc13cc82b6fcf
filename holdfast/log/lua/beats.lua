-- How often each incarnation has beaten.  KEYS: 1 beats
redis.call('HDEL', KEYS[1], '') -- changes nothing, but a server that takes no writes, so no beats, must not be read
return redis.call('HGETALL', KEYS[1])
