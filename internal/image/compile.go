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
	"strings"
)

// platform is what a program runs on, as Go and OCI name it.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

// Names of the programs, which their folders below cmd have too.
const (
	integrator = "gl-k8s-integrator"
	plugin     = "kubectl-gitlab"
)

// program is one of them for one platform.
type program struct {
	platform
	name string
	path string // of the file
	info *debug.BuildInfo
}

// forImage are the platforms that the image has, in this order.
func forImage() []platform { return []platform{{"linux", "amd64"}, {"linux", "arm64"}} }

// compile builds a static program for these platforms. Nothing of the machine gets into it: no paths, no state of git.
func compile(ctx context.Context, o options, name, work string, platforms []platform) ([]program, error) {
	out, err := filepath.Abs(work)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", work, err)
	}
	env, err := buildEnv(ctx)
	if err != nil {
		return nil, err
	}
	var programs []program
	for _, on := range platforms {
		p := program{platform: on, name: name, path: filepath.Join(out, name+"-"+on.os+"-"+on.arch)}
		cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false",
			"-ldflags", "-s -w -buildid= -X main.version="+o.version, "-o", p.path, "./cmd/"+name)
		cmd.Dir = o.source
		cmd.Env = append(env, "CGO_ENABLED=0", "GOOS="+on.os, "GOARCH="+on.arch, "GOAMD64=v1", "GOARM64=v8.0")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("building %s for %s: %w\n%s", name, on, err, &stderr)
		}
		if p.info, err = buildinfo.ReadFile(p.path); err != nil {
			return nil, fmt.Errorf("reading what %s for %s was built from: %w", name, on, err)
		}
		programs = append(programs, p)
	}
	return programs, nil
}

// buildEnv is the environment in which go builds what ships. Flags of the machine count neither from the environment nor from the
// file of go env -w, where an overlay would put in other sources; where modules come from does.
func buildEnv(ctx context.Context) ([]string, error) {
	keep := []string{"GOPROXY", "GOSUMDB", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOINSECURE", "GOMODCACHE", "GOCACHE", "GOTOOLCHAIN"}
	out, err := exec.CommandContext(ctx, "go", append([]string{"env"}, keep...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("asking go where modules come from: %w", err)
	}
	env := append(os.Environ(), "GOENV=off", "GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off")
	for i, value := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
		env = append(env, keep[i]+"="+value)
	}
	return env, nil
}
