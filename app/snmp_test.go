package app

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kemi/collectors/snmp"
	"kemi/pipeline/storetest"
)

// startSNMPD runs Debian's SNMP daemon on the loopback address until the test ends, and gives its address.
func startSNMPD(t *testing.T) string {
	t.Helper()
	const program = "/usr/sbin/snmpd"
	if _, err := os.Stat(program); err != nil {
		storetest.Absent(t, "snmpd is not installed (package snmpd)")
	}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := c.LocalAddr().String()
	_ = c.Close()
	dir := t.TempDir()
	conf := filepath.Join(dir, "snmpd.conf")
	if err := os.WriteFile(conf, []byte("sysName switch-1\nrocommunity s3cret 127.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-f", "-Lf", filepath.Join(dir, "log"), "-C", "-c", conf, "udp:"+address)
	cmd.Env = append(os.Environ(), "MIBS=", "SNMP_PERSISTENT_DIR="+filepath.Join(dir, "state"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return address
}

func put(t *testing.T, a *App, path, body string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPut, "http://"+a.Addr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+a.AdminToken)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("PUT %s: %s", path, resp.Status)
	}
}

// instant is the values that an expression has now.
func instant(t *testing.T, a *App, expr string) []string {
	t.Helper()
	code, text := get(t, a, "/api/v1/query?query="+url.QueryEscape(expr), a.AdminToken)
	var v struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil || code != http.StatusOK {
		t.Fatalf("%s: %d %v %s", expr, code, err, text)
	}
	var out []string
	for _, r := range v.Data.Result {
		out = append(out, fmt.Sprint(r.Value[1]))
	}
	return out
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// TestSNMP adds a host and changes the list of its service in the inventory of a running server, and asks what became of it.
func TestSNMP(t *testing.T) {
	address := startSNMPD(t)
	c := config(t)
	secret := filepath.Join(t.TempDir(), "community")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.SNMP.Interval = time.Second
	c.SNMP.Credentials = map[string]snmp.Credential{"default": {Version: "2c", CommunityFile: secret}}
	a := start(t, c)
	put(t, a, "/api/v2/ims/hosts/sw", `{"service":"net","snmp":{"address":"`+address+`"}}`)
	eventually(t, "the host is up", func() bool {
		v := instant(t, a, `snmp_up{host="sw",service="net"}`)
		return len(v) == 1 && v[0] == "1"
	})
	eventually(t, "a rate of an interface", func() bool {
		return len(instant(t, a, `rate(snmp_interface_received_bytes_total{host="sw",interface="lo"}[1m])`)) == 1
	})
	if v := instant(t, a, `snmp_own`); len(v) > 0 {
		t.Fatalf("there is %v", v)
	}
	put(t, a, "/api/v2/ims/profiles/own", `{"metrics":[{"name":"snmp_own","oid":"1.3.6.1.2.1.1.3.0","scale":0.01}]}`)
	put(t, a, "/api/v2/ims/services/net", `{"snmpProfiles":["own"]}`)
	eventually(t, "the service's list", func() bool { return len(instant(t, a, `snmp_own{host="sw"}`)) == 1 })
	put(t, a, "/api/v2/ims/profiles/own", `{"metrics":[{"name":"snmp_changed","oid":"1.3.6.1.2.1.1.3.0"}]}`)
	eventually(t, "the changed list", func() bool { return len(instant(t, a, `snmp_changed{host="sw"}`)) == 1 })
}
