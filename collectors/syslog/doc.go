// Package syslog takes syslog over UDP, TCP, TLS and Unix sockets: messages of RFC 5424 and of RFC 3164, by octet counting or one a line,
// which is found out for each connection.
//
// A message becomes a log record: its text is the body, its priority the severity and the label facility, host and application are
// labels of the stream, and process, message ID and structured data are attributes. What is no such message is kept, too: all of it is the body, and
// the attribute syslog.error says what is wrong. The protocol has no answers, so a sender over a connection is made to wait while the log of record
// cannot take more; of datagrams the system drops then what it has no room for, and that is counted.
package syslog
