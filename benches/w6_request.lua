-- The same work as w6.rhai, on the request.
local uid = ngx.var.cookie_uid or ""
ngx.req.set_header("x-bucket", ngx.crc32_short(uid) % 2 == 0 and "a" or "b")
ngx.req.set_header("x-client", (ngx.var.http_user_agent or "") .. "|" .. (ngx.var.http_accept_language or ""))
if ngx.var.uri:sub(1, 6) == "/admin" and not ngx.var.http_x_admin then
  return ngx.exit(403)
end
