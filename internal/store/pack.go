package store

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
)

// pack returns what write writes, compressed at a level of compress/gzip.
func pack(level int, write func(io.Writer) error) ([]byte, error) {
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, level)
	if err != nil {
		return nil, err
	}
	if err := write(z); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("compressing: %w", err)
	}
	return packed.Bytes(), nil
}

// maxContent bounds what packed content unpacks to: a damaged or forged one must not fill the memory.
const maxContent = 512 << 20

// unpack hands what pack was given to read.
func unpack(packed []byte, read func(io.Reader) error) error {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	return read(io.LimitReader(z, maxContent))
}
