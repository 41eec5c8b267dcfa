// Package tsduid gives names the numbers that OpenTSDB's clients know: a UID of three bytes for each metric, tag key and tag value, and of them a TSUID for
// each series: the metric's UID and then, by the key's UID, the UIDs of each tag's key and value, in hexadecimal digits.
//
// A name gets its number when somebody asks for it, not when a sample comes in: taking samples costs nothing for it, and a project whose users do not speak of
// TSUIDs has none (decision 0012). Once given a number stays, in the control state, in pages of names: giving numbers to a
// thousand names is a write or two. Numbers are counted per project, from 1, and are never used again.
package tsduid
