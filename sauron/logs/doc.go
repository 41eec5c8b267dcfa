// Package logs answers questions about logs: it reads the query language, asks a log store, and follows the log of record for
// those who watch live.
//
// A query is words and conditions in the manner of Lucene; all must hold unless OR stands between them:
//
//	service:pay level:>=warn "connection reset" -path:/health status:[500 TO 599]
//
// Parse makes a store.LogExpr of it, which says of any record whether it matches; so search and live tail mean the same.
//
// Live tail is one subscription to the bus for all who watch. It does not go through the index: a record is sent as soon as the bus has
// made it durable. Whoever reads too slowly loses the oldest of what waits for him, and is told how much.
//
// The package knows no back-end and stores nothing.
package logs
