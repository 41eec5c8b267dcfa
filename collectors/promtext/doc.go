// Package promtext reads metrics as text: Prometheus' exposition format and OpenMetrics, line by line, and takes them over HTTP in bodies of any
// size, of which never more than a part lies in memory.
//
// A line that cannot be read is told with its number, and the others are kept. What stands before a sample's value is the same each time: it is
// hashed, not parsed, for a series that is known.
package promtext
