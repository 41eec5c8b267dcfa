// Package statsd takes StatsD and DogStatsD over UDP, Unix sockets and TCP, adds up what comes in, and writes the sums every few seconds.
//
// A counter is written as what it has counted since it began, so that rate() works on it; a gauge as its last value; a set as how many
// different members an interval had; a timer, histogram or distribution as a summary (quantiles of the interval, count and sum since it
// began) or as a native histogram. What was read and not yet written lives in memory only: the protocol has no acknowledgement, and so kill -9
// loses up to one flush interval of it, and counters begin anew, which rate() sees as a reset.
//
// Events and service checks of DogStatsD are no metrics: they become log records.
package statsd
