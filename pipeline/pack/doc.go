// Package pack packs a few float samples of one series into bytes: 1 to 255 of them, 32 as a rule, in ascending order of time over less than 2^32 ms.
// Values come back bit for bit, whatever they are.
//
// What makes it short: most values are decimals, so that a power of ten makes integers of them; those, or the differences between them, lie within a narrow
// range, and what they are above its lower end is packed at one width. Values that are no decimals are taken as the integers that their bits are. What makes it fast:
// one width for all means that there is nothing to decide for a single sample, neither in packing nor in unpacking.
//
// Nothing is allocated if there is room, no state is kept, and there is no checksum: whoever stores the bytes has one. docs/formats/head.md says what each byte is.
package pack
