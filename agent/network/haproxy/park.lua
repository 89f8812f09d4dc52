-- Lets a connection wait while a backend has no server: a crashed single replica is back within seconds, and a rollout
-- that stops the old task first has its new one by then. Bounded in time and in number, like the built-in relay.
local LONGEST_MS, STEP_MS, MOST = 5000, 50, 1000
local parked = {}

local function park(txn, backend)
    local count = parked[backend] or 0
    if count >= MOST then return end
    parked[backend] = count + 1
    for _ = 1, LONGEST_MS / STEP_MS do
        core.msleep(STEP_MS)
        if txn.f:nbsrv(backend) > 0 then break end
    end
    parked[backend] = parked[backend] - 1
end

core.register_action("park", { "tcp-req", "http-req" }, park, 1)
