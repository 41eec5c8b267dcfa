// Package scrape pulls metrics from targets as Prometheus does: with Prometheus' own configuration, service discovery, relabelling and
// scrape loop, which are upstream's packages.
//
// What is ours is the end of the pipe. A scrape becomes one remote-write 2.0 body that goes through the same door as any sender's: checked,
// enriched, and durable on the log of record before the scrape counts as committed. Of each job's targets the samples belong to one project,
// and only that project sees the targets. The configuration is read again whenever its files change, or on request; one that does not
// load leaves the one before it in force.
package scrape
