//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kemi/pipeline/storetest"
)

// freePort is an address that is free for datagrams and for connections.
func freePort(t testing.TB) (addr, port string) {
	t.Helper()
	addr = freeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return addr, port
}

// certificate writes a certificate of 127.0.0.1, signed by itself, and its key.
func certificate(t testing.TB, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})))
	return cert, key
}

// rsyslogd is the program, or the one that `make deps` has unpacked, and the environment that it needs.
func rsyslogd(t testing.TB) (program string, env []string) {
	t.Helper()
	if p, err := exec.LookPath("rsyslogd"); err == nil {
		return p, nil
	}
	root, err := filepath.Abs("../bin/rsyslog")
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(root, "usr/sbin/rsyslogd")
	if _, err := os.Stat(program); err != nil {
		storetest.Absent(t, "%v; `make deps` brings it", err)
	}
	libs, _ := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	return program, []string{"LD_LIBRARY_PATH=" + strings.Join(libs, ":"), "RSYSLOG_MODDIR=" + filepath.Join(libs[0], "rsyslog") + "/"}
}

// TestSyslogDaemons feeds KEMI from rsyslog and syslog-ng as their users have them: what they read from a file they send on, by UDP, by TCP with both
// framings, and by TLS with a certificate of their own, in both formats.
func TestSyslogDaemons(t *testing.T) {
	ng := needs(t, "syslog-ng")
	rsyslog, env := rsyslogd(t)
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	plain, port := freePort(t)
	secure, securePort := freePort(t)
	data := filepath.Join(dir, "data")
	s := startServer(t, data, fmt.Sprintf(`agent: {enabled: false}
ingest:
  syslog:
    listen: ["udp://%s", "tcp://%s", "tls://%s"]
    tokenFile: %s
    tls: {cert: %s, key: %s, clientCA: %s}
`, plain, plain, secure, filepath.Join(data, "agent.token"), cert, key, cert))

	logFile := filepath.Join(dir, "app.log")
	write(t, logFile, "")
	conf := filepath.Join(dir, "syslog-ng.conf")
	write(t, conf, fmt.Sprintf(`@version: 3.38
options { keep-hostname(yes); };
source s { file(%q follow-freq(0.2) flags(no-parse) program-override("shop") host-override("ng-1")); };
destination bsd { network("127.0.0.1" port(%s) transport("tcp") persist-name("bsd")); };
destination udp { network("127.0.0.1" port(%s) transport("udp")); };
destination ietf { syslog("127.0.0.1" port(%s) transport("tcp") persist-name("ietf")); };
destination tls { syslog("127.0.0.1" port(%s) transport("tls") tls(ca-file(%q) cert-file(%q) key-file(%q) peer-verify(required-trusted))); };
log { source(s); destination(bsd); };
log { source(s); destination(udp); };
log { source(s); destination(ietf); };
log { source(s); destination(tls); };
`, logFile, port, port, port, securePort, cert, cert, key))
	spawn(t, nil, ng, "-F", "--no-caps", "-f", conf, "-R", filepath.Join(dir, "persist"), "-p", filepath.Join(dir, "pid"), "-c", filepath.Join(dir, "ctl"), "--stderr")

	rconf := filepath.Join(dir, "rsyslog.conf")
	write(t, rconf, fmt.Sprintf(`global(workDirectory=%[1]q)
module(load="imfile" mode="inotify")
input(type="imfile" File=%[2]q Tag="shop:" Severity="warning" Facility="local3" readMode="0")
$LocalHostName rs-1
action(type="omfwd" target="127.0.0.1" port="%[3]s" protocol="tcp" TCP_Framing="octet-counted" template="RSYSLOG_SyslogProtocol23Format")
action(type="omfwd" target="127.0.0.1" port="%[3]s" protocol="tcp" template="RSYSLOG_ForwardFormat")
action(type="omfwd" target="127.0.0.1" port="%[3]s" protocol="udp" template="RSYSLOG_TraditionalForwardFormat")
`, dir, logFile, port))
	p := spawn(t, env, rsyslog, "-n", "-f", rconf, "-i", filepath.Join(dir, "rsyslog.pid"))

	const lines = 25
	for i := range lines {
		appendLine(t, logFile, fmt.Sprintf("주문 %d 처리 지연: queue depth %d", i, i*10))
	}
	for query, want := range map[string]int{
		`host:"ng-1" app:shop 지연 "queue depth"`:                         4 * lines, // the four destinations
		`host:"rs-1" app:shop facility:local3 level:warn "queue depth"`: 3 * lines,
	} {
		eventually(t, 60*time.Second, query, func() error {
			n, err := s.countLogs(query)
			if err != nil || n != want {
				_, got, _ := s.try("GET", "/api/v2/logs/query?query=facility:local3&start=1h-ago&limit=70", nil)
				return fmt.Errorf("%d lines, want %d, %v; rsyslog: %s\nof its lines: %s", n, want, err, tail(p.out.String(), 500), tail(got, 2000))
			}
			return nil
		})
	}
	status, text, err := s.try("GET", "/metrics", nil)
	if err != nil || status != 200 || strings.Contains(text, `kemi_collectors_syslog_odd_total{reason="broken"} 1`) {
		t.Errorf("%d %v: messages of the daemons were not understood", status, err)
	}
}
