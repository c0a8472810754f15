// What a program with a client that oapi-codegen has generated does: create, read, search to the
// last page, claim, and be refused. Copied by generators.py; ends with a status of 1 and a line if
// anything is not as it should be.
package main

import (
	"context"
	"fmt"
	"os"

	"example.com/generated/client"
)

func check(err error, holds bool, what string) {
	if err != nil || !holds {
		fmt.Fprintln(os.Stderr, "not as it should be:", what, err)
		os.Exit(1)
	}
}

func main() {
	ctx := context.Background()
	troth, err := client.NewClientWithResponses(os.Args[1])
	check(err, true, "a client")
	farMs := int64(4102444800000)
	for number := 0; number < 7; number++ {
		body := client.CreatePromiseBody{Id: fmt.Sprintf("go/found %d", number), Timeout: &farMs}
		made, err := troth.CreatePromiseWithResponse(ctx, nil, body)
		check(err, made != nil && made.JSON201 != nil, "creating")
	}
	read, err := troth.ReadPromiseWithResponse(ctx, "go/found 0", nil)
	check(err, read != nil && read.JSON200 != nil && read.JSON200.State == "PENDING", "reading")

	pattern, limit, found, pages := "go/found*", 3, 0, 0
	params := &client.SearchPromisesParams{Id: &pattern, Limit: &limit}
	for params != nil {
		page, err := troth.SearchPromisesWithResponse(ctx, params)
		check(err, page != nil && page.JSON200 != nil, "searching")
		found += len(page.JSON200.Promises)
		pages++
		params = nil
		if page.JSON200.Cursor != nil {
			params = &client.SearchPromisesParams{Cursor: page.JSON200.Cursor}
		}
	}
	check(nil, found == 7 && pages == 3, "pages")

	target := "poll://any@go/worker"
	tags := map[string]*string{"resonate:invoke": &target}
	body := client.CreatePromiseBody{Id: "go/work", Timeout: &farMs, Tags: &tags}
	_, err = troth.CreatePromiseWithResponse(ctx, nil, body)
	check(err, true, "creating work")
	claim := client.ClaimTaskBody{Id: "__invoke:go/work", Counter: 1, ProcessId: "w", Ttl: &farMs}
	claimed, err := troth.ClaimTaskWithResponse(ctx, nil, claim)
	check(err, claimed != nil && claimed.JSON201 != nil && claimed.JSON201.Type == "invoke", "claiming")
	refused, err := troth.ClaimTaskWithResponse(ctx, nil, claim)
	check(err, refused != nil && refused.JSON403 != nil && refused.JSON403.Error.Code == 40305, "refusal")
}
