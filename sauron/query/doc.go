// Package query answers SAURON's metric queries with OpenTSDB 2.4's meaning: a request (JSON or URL) is parsed, planned and executed over
// a store.SeriesStore, and the answer is written as OpenTSDB writes it.
//
// The executor reads the selection once. Each series is down-sampled while it is read and folded into its group at once, so
// that memory follows the size of the answer and not the number of samples; only what cannot be folded (percentiles, raw points that
// have to be interpolated) is kept in columns until the end. What a query may read and hold is limited, and an error
// names the limit.
//
// Meaning follows OpenTSDB 2.4.1 where a client can see it: rows of one hour are read whole, so that points just outside the
// range take part in interpolation, in rates and in the last bucket; the first rate of a series is the one against time zero and only
// fills in until the second point; every filter wants its tag key to be there (not_key excepted); "a*b" asks for both parts and not for their
// order. Values are floating point here, so a series whose values are all whole numbers counts as written with integers, and
// without down-sampling is aggregated in integers, as OpenTSDB does.
//
// What OpenTSDB does not have: the metric "-" selects by filters alone. There the tag key "metric" is the metric's name, which can be
// filtered and grouped by; an unknown name is an empty answer and not an error, and numbers are never integers. A result's tags are
// those that it was grouped by and no others (with the aggregator none all of the series), "metric" among them; all other keys are its
// aggregateTags, as what a query by filters alone folds has nothing in common but by chance. If several metrics fold into one
// result, its metric is "-". The filter not_key selects the series without the key.
//
// The package does not know back-ends, users or tokens: who asks is an argument.
package query
