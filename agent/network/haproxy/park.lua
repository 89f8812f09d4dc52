-- Lets a connection wait while a backend has no server: a crashed single replica is back within seconds, a rollout that
-- stops the old task first has its new one by then, and a job that sleeps is started for it. Bounded in time and in
-- number, like the built-in relay. The agent is told of what waits: it asks, and is answered as soon as something does.
local MOST, SHORTEST_MS, LONGEST_MS, REPLACED_MS, LOOK_MS, ANSWER_MS = 1000, 20, 250, 1000, 20, 3000
local parked, refused = {}, {}

local function turn_away(backend)
    refused[backend] = (refused[backend] or 0) + 1
end

local function park(txn, backend, limit)
    local count, waited, limit_ms = parked[backend] or 0, 0, tonumber(limit)
    if count >= MOST then return turn_away(backend) end
    parked[backend] = count + 1
    local found, looked = false, 0
    while waited < limit_ms and not found do
        -- the longer it waits the less it minds, and a thousand that wait for nothing must not keep a core busy
        local step = math.floor(math.max(SHORTEST_MS, math.min(LONGEST_MS, waited / 10)))
        core.msleep(step)
        waited = waited + step
        found = txn.f:nbsrv(backend) > 0
        if waited - looked >= REPLACED_MS then
            looked = waited
            -- a worker that a reload has replaced gets no servers any more: who asks again finds the one after it
            if tostring(core.get_info()["Stopping"]) == "1" then break end
        end
    end
    parked[backend] = parked[backend] - 1
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

core.register_action("park", { "tcp-req", "http-req" }, park, 2)
core.register_cli({ "podium", "parked" }, "podium parked: by backend, how many wait and were turned away", tell)
core.register_cli({ "podium", "waits" }, "podium waits: the same as soon as some wait", tell_when_some_waits)
