console.log("hello from Node,", process.argv.slice(2));
