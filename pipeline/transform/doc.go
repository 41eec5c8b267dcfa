// Package transform changes log records on their way to the log of record, as pipelines of steps say: parse, redact, route, sample, drop, rename, add.
//
// A pipeline names the records that it is for by their labels; every pipeline that matches is gone through, in order, and sees what those before
// it have made. What a step cannot do with a record, such as parse JSON that is none, leaves the record as it was and is counted. The package is pure: it
// has no clock, and what it decides by chance it decides by a hash, so the same record always ends the same way.
package transform
