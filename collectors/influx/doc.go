// Package influx takes InfluxDB's line protocol over the HTTP of InfluxDB 1 (/write) and 2 (/api/v2/write).
//
// A field of a measurement is a series, measurement_field, with the tags for labels. A line that cannot be read is told with its
// number; the others are kept. The idea is that what stands before a line's fields is the same each time: it is hashed, not parsed, for a
// series that is known.
package influx
