// Package gelf takes GELF 1.1, Graylog's extended log format: over UDP in chunks, plain or packed with zlib or gzip; over TCP and TLS with a NUL behind each
// message; and over HTTP.
//
// A message becomes a log record; its additional fields mean what they mean in JSON lines. Over HTTP a wrong message is refused and told; the other ways have no
// answers, so what comes there is kept as it is, with the attribute gelf.error that says what is wrong with it.
package gelf
