// Package journal follows the journal of systemd: it runs journalctl and hands out what that prints, each entry with the cursor
// after it. The caller keeps the cursor together with the entry and gives it back at the next start, so that each entry comes once.
//
// journalctl is the one reader of the journal's format that fits every version of it, and using it needs no C library. While nobody takes
// entries it is not read, so it waits; the journal itself is the buffer.
package journal
