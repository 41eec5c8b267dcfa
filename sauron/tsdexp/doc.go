// Package tsdexp evaluates OpenTSDB's expressions over the results of queries: those of /api/query/exp, arithmetic over named metrics whose series are joined by
// their tags ("a + b / 2"), and those of /api/query/gexp, functions in Graphite's manner ("scale(sum:cpu{host=*},2)"). It reads no data itself.
//
// Meaning follows OpenTSDB 2.4.1, whose arithmetic is that of Apache JEXL: a division by zero is 0, a comparison is 1 or 0 and takes NaN for
// the smallest number, whole numbers that are written out divide to whole ones. A series that has no partner counts with 0, a point that a
// series lacks with its metric's fill policy.
package tsdexp
