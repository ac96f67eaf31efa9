package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
)

// program is the integrator for one architecture.
type program struct {
	arch string // as Go and OCI name it
	path string // of the file
	info *debug.BuildInfo
}

// architectures are those that the image has, in this order.
func architectures() []string { return []string{"amd64", "arm64"} }

// compile builds the static programs. Nothing of the machine gets into them: no paths, no state of git.
func compile(ctx context.Context, o options, work string) ([]program, error) {
	out, err := filepath.Abs(work)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", work, err)
	}
	var programs []program
	for _, arch := range architectures() {
		p := program{arch: arch, path: filepath.Join(out, "gl-k8s-integrator-"+arch)}
		cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false",
			"-ldflags", "-s -w -buildid= -X main.version="+o.version, "-o", p.path, "./cmd/gl-k8s-integrator")
		cmd.Dir = o.source
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("building the program for %s: %w\n%s", arch, err, &stderr)
		}
		if p.info, err = buildinfo.ReadFile(p.path); err != nil {
			return nil, fmt.Errorf("reading what the program for %s was built from: %w", arch, err)
		}
		programs = append(programs, p)
	}
	return programs, nil
}
