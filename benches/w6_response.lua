-- The same work as w6.rhai, on the response.
local headers = ngx.header
headers["strict-transport-security"] = "max-age=31536000"
headers["x-content-type-options"] = "nosniff"
headers["x-frame-options"] = "DENY"
headers["cache-control"] = nil
