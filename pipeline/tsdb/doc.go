// Package tsdb keeps time series on one machine: store.SeriesStore on Prometheus' tsdb, which is used as a library.
//
// Samples are appended by reference: a codec.Series remembers the number that the head gave it, so that a known series
// costs no look-up by labels and no allocation. What is older than the newest sample of its series takes a second, slower way
// that reads what is there first; so duplicates change nothing and conflicts are counted.
//
// The log of record is the truth. The head's own WAL only makes restarts quick, so it is not fsynced per commit; how
// far the head can be trusted after a crash is in the positions, see positions.go and docs/decisions/0003-tsdb-wal.md.
//
// Every series carries a hidden label with its project. It is added on append, added as a matcher on read, and
// stripped from answers.
package tsdb
