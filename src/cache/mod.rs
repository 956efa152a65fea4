//! The cache. `store` keeps answers; it knows no request, no route and no rule of HTTP.

pub mod store;
