// Package storetest holds what every back-end of a contract must pass: conformance suites (Bus, …), and benchmarks whose
// names stay the same so that back-ends and runs can be compared. A back-end's own test file calls it with what opens
// one.
package storetest
