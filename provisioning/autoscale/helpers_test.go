package autoscale_test

import "os"

func writeProgram(path string) error {
	return os.WriteFile(path, []byte("#!/bin/sh\nexec sleep 600\n"), 0o700)
}
