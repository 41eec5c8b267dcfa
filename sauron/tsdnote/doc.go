// Package tsdnote keeps OpenTSDB's annotations: a text at a time, for one series or for all of them, durable in the control state.
//
// Notes are kept under their time, so that those of a range are read and no others. How many a project may have and how many one question reads is
// limited, and an error names the limit.
package tsdnote
