// Package push is the receivers that senders write to over HTTP: Prometheus remote write and OpenTSDB put for metrics, Loki push, JSON
// lines and OTLP for logs.
//
// A receiver checks what it is given, names what is wrong with it, keeps the rest, and publishes it on the log of record. It answers
// that it has the records only after the log has made them durable, and never says so of what it did not understand. It
// stores nothing itself, and the memory that all requests together may take is bounded.
package push
