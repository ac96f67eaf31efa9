package rbacsync_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

var updateGolden = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
