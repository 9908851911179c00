"""What Redis does in one step for us. Scripts run one at a time, by the server's clock, whatever node asked.

Registrations of one identity are the fields of one hash: session id → ``{environment, tier, until}``.

A server that starts empty has forgotten who is connected, and "nobody is" would let an identity into two environments
(law 4). So an empty server notes when it was born, and for one lifetime after that no session is let in; meanwhile the
nodes, which remember their own sessions, put them back. After it every registration that is not back has lapsed.
"""

from __future__ import annotations

_COMMON = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function settling(born_key, lifetime)
  redis.call('SET', born_key, now, 'NX')
  local born = tonumber(redis.call('GET', born_key))
  if born > now then -- the clock was set back: begin again rather than wait for it
    redis.call('SET', born_key, now)
    born = now
  end
  return born + lifetime - now
end

local function live(key)
  local found, fields = {}, redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local held = cjson.decode(fields[i + 1])
    if held['until'] > now then found[fields[i]] = held else redis.call('HDEL', key, fields[i]) end
  end
  return found
end

local function register(key, session, environment, tier, lifetime)
  local held = {environment = environment, tier = tier, ['until'] = now + lifetime}
  redis.call('HSET', key, session, cjson.encode(held))
  if redis.call('PTTL', key) < lifetime then redis.call('PEXPIRE', key, lifetime) end
end

local function listed(found)
  local answer = {}
  for session, held in pairs(found) do
    for _, value in ipairs({session, held.environment, held.tier}) do answer[#answer + 1] = value end
  end
  return answer
end
"""

BIRTH = _COMMON + "return settling(KEYS[1], 0)"
"""KEYS: born. Note that this server is in use from now on, unless that is noted."""

ENTER = (
    _COMMON
    + """
local session, environment, tier, lifetime = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if ARGV[5] == '0' then
  local left = settling(KEYS[2], lifetime)
  if left > 0 then return {'settling', left} end
  local in_the_way = {}
  for other, held in pairs(live(KEYS[1])) do
    if held.tier ~= tier then in_the_way[other] = held end
  end
  if next(in_the_way) then return {'held', unpack(listed(in_the_way))} end
end
register(KEYS[1], session, environment, tier, lifetime)
return {'entered'}
"""
)
"""KEYS: live, born. ARGV: session, environment, tier, lifetime in ms, crossing as 0 or 1.

Gives ``settling`` and the milliseconds left, ``held`` and three values for each session in the way, or ``entered``.
"""

KEEP = (
    _COMMON
    + """
local session, environment, tier, lifetime = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if not live(KEYS[1])[session] and settling(KEYS[2], lifetime) <= 0 then return 0 end
register(KEYS[1], session, environment, tier, lifetime)
return 1
"""
)
"""KEYS: live, born. ARGV: session, environment, tier, lifetime in ms. Gives 1 where it is registered now, else 0."""

OCCUPIED = _COMMON + "return listed(live(KEYS[1]))"
"""KEYS: live. Gives session, environment and tier of each."""

COUNT = """
local count = redis.call('INCR', KEYS[1])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {count, redis.call('PTTL', KEYS[1])}
"""
"""KEYS: the counter. ARGV: window in ms, opened by the first. Gives how many, and the milliseconds left."""

FORGIVE = "if tonumber(redis.call('GET', KEYS[1]) or 0) > 0 then return redis.call('DECR', KEYS[1]) end return 0"
"""KEYS: the counter, which keeps its time to live."""

LEASE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
"""KEYS: the lease. ARGV: who wants it, lifetime in ms."""

GIVE_UP = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
"""KEYS: the lease. ARGV: whose it must be."""
