-- What was written after an offset.  KEYS: 1 meta, 2 changed  ARGV: since, limit
return {
  redis.call('HMGET', KEYS[1], 'offset', 'ts', 'checksum'),
  redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2]),
}
