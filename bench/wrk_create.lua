-- What `troth bench create` sends, for wrk: see "Checked against wrk" in README.md.
local counter = 0
local thread_count = 0
local prefix = "wrk" .. os.time() .. "-"
local data = string.rep("QUFB", 66) .. "QUE="
function setup(thread)
  thread:set("number", thread_count)
  thread_count = thread_count + 1
end
function request()
  counter = counter + 1
  local id = string.format("%s%d-%010d", prefix, number, counter)
  local body = '{"id":"' .. id .. '","timeout":9999999999999,"param":{"data":"' .. data .. '"}}'
  return wrk.format("POST", "/promises", {["Content-Type"] = "application/json"}, body)
end
