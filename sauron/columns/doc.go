// Package columns evaluates the parts of PromQL expressions that read most samples: selectors, functions of range selectors, and aggregations of either.
// Prometheus' engine reads such a part through an iterator, a sample at a time, keeps a point for every series and step, and aggregates at the
// end. Here a series' samples come decoded, in columns; it is evaluated at all steps and folded into its groups, and then its memory is used for the next.
//
// What comes out is what the engine would have said of the same series in the order of their labels, to the last bit, warnings included: functions of range
// selectors are the engine's own (promql.FunctionCalls) or do the same steps in the same order, and so do sums. What is not understood here is left to the engine: Find names the parts that are.
package columns
