// Package limit lets queries in: so many at once, so many of one identity, so much memory held by those under way. Who asks for too much waits
// or is refused on his own account: no identity takes every place or all the memory, and a place that becomes free goes to whoever has the
// fewest. One Gate is shared by all that query, so that it does not matter in which language a heavy user asks.
//
// Of the queries that are in, as many read at a time as there are processors, and they take turns by identity (Work): a light query waits for a few
// stretches of the heavy ones of others, however many of those there are.
//
// It limits what a query holds, not what it means: how many samples or series one query may read is the languages' own affair.
package limit
