// Command image makes the container image of the program without a container engine: static programs for amd64 and arm64,
// each in an otherwise empty root with the CA certificates of Mozilla's list, as one OCI archive; beside it a list of
// what is in it (SPDX 2.3) and, with a key, signatures of both. The same source, version and time give the same bytes, on
// any machine. With -release it makes all files of a release, that image among them. It is a module of its own, so that
// what it needs is not what the program needs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"
)

// Names of what is written, in the folder that -out names.
const (
	archiveName = "gl-k8s-integrator-image.tar"
	sbomName    = "gl-k8s-integrator-image.spdx.json"
)

// options are what an image is made from.
type options struct {
	source  string // the root of the repository
	out     string // a folder; it is made
	version string
	created time.Time // of everything in the image
	key     string    // PEM file with an ECDSA key on P-256; "": no signature
	url     string    // of the folder where the files of a release will be; "": not known
}

const withoutKey = "not signed: no key was given"

func main() {
	var o options
	flag.StringVar(&o.source, "source", "../..", "root of the repository")
	flag.StringVar(&o.out, "out", "../../bin", "folder for the archive, its list of contents and their signatures")
	flag.StringVar(&o.version, "version", "dev", "version of the program")
	flag.StringVar(&o.key, "key", "", "PEM file with the private key (ECDSA, P-256) to sign with")
	all := flag.Bool("release", false, "make all files of a release of the commit that is checked out")
	flag.StringVar(&o.url, "url", "", "with -release: URL of the folder from which the files will be fetched, for krew")
	platforms := forPlugin()
	flag.Func("platforms", "with -release: programs for these alone, as in linux/amd64,darwin/arm64", func(list string) (err error) {
		platforms, err = parsePlatforms(list)
		return err
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	var err error
	if *all {
		err = release(ctx, o, platforms, os.Stdout)
	} else if err = run(ctx, o, os.Getenv("SOURCE_DATE_EPOCH"), os.Stdout); err != nil {
		err = fmt.Errorf("making the image: %w", err)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run makes the image and says what it wrote. epoch is the time of everything in it, in seconds since 1970
// (reproducible-builds.org, SOURCE_DATE_EPOCH); "" for 0.
func run(ctx context.Context, o options, epoch string, out io.Writer) error {
	seconds := int64(0)
	if epoch != "" {
		var err error
		if seconds, err = strconv.ParseInt(epoch, 10, 64); err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
	}
	o.created = time.Unix(seconds, 0).UTC()
	digest, err := build(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\n%s\nimage digest %s\n", filepath.Join(o.out, archiveName), filepath.Join(o.out, sbomName), digest)
	if o.key == "" {
		fmt.Fprintln(out, withoutKey)
		return nil
	}
	fmt.Fprintf(out, "%[1]s.sig\n%[2]s.sig\n", filepath.Join(o.out, archiveName), filepath.Join(o.out, sbomName))
	return nil
}

// build writes the files and returns the digest of the image, as a registry will have it.
func build(ctx context.Context, o options) (digest string, err error) {
	if o.key != "" { // minutes before it is needed
		if _, err := readKey(o.key); err != nil {
			return "", fmt.Errorf("reading the key %s: %w", o.key, err)
		}
	}
	if err := os.MkdirAll(o.out, 0o750); err != nil {
		return "", fmt.Errorf("making the folder to write to: %w", err)
	}
	work, err := os.MkdirTemp("", "gl-k8s-image-")
	if err != nil {
		return "", fmt.Errorf("making a folder to build in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	programs, err := compile(ctx, o, integrator, work, forImage())
	if err != nil {
		return "", err
	}
	return writeImage(o, programs, work)
}

// writeImage writes the image of these programs, with what belongs to it, and returns its digest.
func writeImage(o options, programs []program, work string) (string, error) {
	digest, err := writeArchive(o, programs, filepath.Join(work, "layout"), filepath.Join(o.out, archiveName))
	if err != nil {
		return "", err
	}
	if err := writeSBOM(o, programs, digest, filepath.Join(o.out, sbomName)); err != nil {
		return "", err
	}
	for _, name := range []string{archiveName, sbomName} {
		if err := sign(o.key, filepath.Join(o.out, name)); err != nil {
			return "", err
		}
	}
	return digest, nil
}
