package syncer_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(thenStop{m}) }

// thenStop stops the control plane that tests may have started, before leaks are looked for.
type thenStop struct{ *testing.M }

func (m thenStop) Run() int {
	code := m.M.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the control plane:", err)
		return 1
	}
	return code
}
