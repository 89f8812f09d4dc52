-- Lets a connection wait while a backend has no server: a crashed single replica is back within seconds, a rollout that
-- stops the old task first has its new one by then, and a job that sleeps is started for it. Bounded in time and in
-- number, like the built-in relay. The agent is told of what waits: it asks, and is answered as soon as something does.
local MOST, SHORTEST_MS, LONGEST_MS, LOOK_MS, ANSWER_MS = 1000, 20, 250, 20, 3000
local MOST_TOGETHER = tonumber(os.getenv("PODIUM_MAY_WAIT")) or MOST
local parked, refused, together = {}, {}, 0
local replaced, looked_ms = false, 0

local function turn_away(backend)
    parked[backend], refused[backend] = parked[backend] or 0, (refused[backend] or 0) + 1
end

-- Of the clock: on a busy machine a sleep takes longer than was asked for, and waiting must not.
local function now_ms()
    local now = core.now()
    return now.sec * 1000 + now.usec / 1000
end

-- Whether a reload has put another worker in the place of this one.
local function is_replaced(at_ms)
    if not replaced and at_ms - looked_ms >= LONGEST_MS then
        replaced, looked_ms = tostring(core.get_info()["Stopping"]) == "1", at_ms
    end
    return replaced
end

-- A worker that is replaced counts no servers, and has them nevertheless.
local function has_server(txn, backend, at_ms)
    if txn.f:nbsrv(backend) > 0 then return true end
    return is_replaced(at_ms) and core.backends[backend]:get_stats()["act"] > 0
end

local function park(txn, backend, limit)
    local count, began = parked[backend] or 0, now_ms()
    if count >= MOST or together >= MOST_TOGETHER then return turn_away(backend) end
    parked[backend], together = count + 1, together + 1
    local limit_ms, waited, found = tonumber(limit), 0, has_server(txn, backend, began)
    while waited < limit_ms and not found do
        -- the longer it waits the less it minds, and a thousand that wait for nothing must not keep a core busy
        core.msleep(math.floor(math.max(SHORTEST_MS, math.min(LONGEST_MS, waited / 10))))
        local now = now_ms()
        waited, found = now - began, has_server(txn, backend, now)
    end
    parked[backend], together = parked[backend] - 1, together - 1
    if not found then turn_away(backend) end
end

local function some_waits()
    for _, count in pairs(parked) do
        if count > 0 then return true end
    end
    return false
end

local function tell(applet)
    local lines = {}
    for backend, count in pairs(parked) do
        lines[#lines + 1] = backend .. " " .. count .. " " .. (refused[backend] or 0)
    end
    applet:send(table.concat(lines, "\n") .. "\n")
end

local function tell_when_some_waits(applet)
    for _ = 1, ANSWER_MS / LOOK_MS do
        if some_waits() then break end
        core.msleep(LOOK_MS)
    end
    tell(applet)
end

-- HAProxy takes no other servers for a worker that is replaced, but this one is there from the start: it leads those who
-- still wait there to where the job is now.
local function lead(applet, _, _, backend, address, port)
    local server = core.backends[backend] and core.backends[backend].servers["podium.lead"]
    if not server then return applet:send("no such backend\n") end
    server:set_addr(address, tonumber(port))
    server:set_ready()
    applet:send("led\n")
end

core.register_action("park", { "tcp-req", "http-req" }, park, 2)
core.register_cli({ "podium", "parked" }, "podium parked: by backend, how many wait and were turned away", tell)
core.register_cli({ "podium", "waits" }, "podium waits: the same as soon as some wait", tell_when_some_waits)
core.register_cli({ "podium", "lead" }, "podium lead BACKEND ADDRESS PORT: take those who wait there", lead)
